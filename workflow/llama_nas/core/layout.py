"""Names of files and sections that one room writes and another reads."""

CARD_FILE = "README.md"  # in an export: the model card
SCORES = "## Scores\n"  # the last section of an export's card
SUBNET_FILE = "subnet.json"  # in an export: which network it is
PRETRAINED = "pretrained"  # the base model in file names, where a subnet id stands for a network
