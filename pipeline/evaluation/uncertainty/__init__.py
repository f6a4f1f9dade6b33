"""Confidence that means something: calibration, prediction sets, abstention and unknown images, fitted on validation.

What is fitted here is applied by `models.uncertainty`. NumPy, SciPy and scikit-learn only.
"""
