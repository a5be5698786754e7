"""Which seeds belong to whom, so that no network is ever judged on a field that it was trained on."""

#: Fields that networks are judged on count their seeds from here: those of training are smaller.
EVALUATION = 900_000

#: Fields on which an epoch is chosen and errors are calibrated: the seed of the training and this.
VALIDATION = 700_000_000

#: First number of fields that studies of networks look at; they train on fewer.
UNSEEN_FIELD = 100_000
