"""Labels: read a label column of any type, rename its class names, and check them."""
