"""The demo: starts the real service, asks it through the real client, and shows the answers on one page."""
