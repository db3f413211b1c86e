"""Eight small networks that stand for what people put on devices, and the images that they learn."""
