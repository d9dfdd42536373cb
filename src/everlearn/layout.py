"""The names in a folder that holds what was learned: the package and the command line read the same ones."""

MARKER, FORMAT = "everlearn.json", 1  # what kind of folder it is, and the number of this layout
LEDGER = "ledger.sqlite"  # beside CLASSIFIER where one is kept
BASE, CONFIG, USERS, CLASSIFIER = "base", "config.json", "users", "classifier.safetensors"
ADAPTER = "adapter.json"  # beside BASE's other files where the model is one of Hugging Face, which stays where it is
REPLACED = "replacement.json"  # the same where memories stand in its places, and the model is there whole
RUN, HELD_OUT = "run.json", "heldout"  # in the folder of a training run: what it is, and the text that it never saw
