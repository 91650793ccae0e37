"""The mathematics, with torch; torchvision for ordinary backbones alone."""
