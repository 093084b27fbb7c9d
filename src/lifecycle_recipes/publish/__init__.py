"""The end of the life: a trained model as one directory, its smaller forms, and the proof that they are it."""
