"""What would stop or waste a training: environment, data, model, memory and time."""
