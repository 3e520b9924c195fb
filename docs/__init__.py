"""What the pages here say that the program decides or measures."""
