"""One script a data set: write or check the files that `qure_lib.datasets` reads."""
