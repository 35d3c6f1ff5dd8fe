"""One script a data set: a raw release, or a drawing, -> the layout that `qure_lib.data` reads."""
