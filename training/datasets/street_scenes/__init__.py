"""What a synthetic street is drawn with: the layer, the backdrop, the street furniture, the people."""
