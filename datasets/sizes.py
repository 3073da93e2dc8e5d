"""Sizes and boxes of pictures, in pixels."""

Size = tuple[int, int]  # height, width
Box = tuple[int, int, int, int]  # top, left, height, width; may reach beyond the image
