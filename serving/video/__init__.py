"""The batch video job: videos, folders of pictures and network streams to pedestrian masks.

    sources   what is to be read: files, globs, lists, addresses; one's part of an indexed job
    reading   decoded frames with their time stamps, from the start or after any frame (files.py), or live (streams.py)
    engines   frames to masks: in this process, through a running service, or on a Ray cluster
    tiles     large frames in overlapping parts, small pedestrians at a size the model knows
    smoothing flicker removed over time
    store     what is done, on disk: shards of frames, written aside and renamed, and what they were made with
    planes    pictures as films keep them: drawn on and encoded without going through RGB
    outputs   films, pictures, tables, heat map and page, each written shard by shard and joined at the end
    shards    masks in order to committed shards
    job       one input from reader to joined outputs; several at once

A shard is the unit of resumption: so many consecutive frames, which depend on nothing outside but the input. An
unbroken run works shard by shard as well, so that a resumed one cannot differ from it.
Nothing here is imported by the service.
"""
