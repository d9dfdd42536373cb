"""The names in a folder that holds what was learned: the package and the command line read the same ones."""

MARKER, FORMAT = "everlearn.json", 1  # what kind of folder it is, and the number of this layout
BASE, CONFIG, USERS, CLASSIFIER = "base", "config.json", "users", "classifier.safetensors"
