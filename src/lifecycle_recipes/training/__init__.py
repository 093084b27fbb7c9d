"""What every Trainer-based stage does: train, watch, save, reload; and the trainer subclasses."""
