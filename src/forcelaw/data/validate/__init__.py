"""Can this data be trained on?"""

# what ``data prepare --allow`` lets pass
ALLOWED = {
    "forces": "forces that are not minus the gradient of the energies, or all zero",
    "units": "energies or lengths that look like another unit",
    "energies": "energies far from all others after reference energies",
    "levels": "sources whose energies do not fit together",
    "conflicts": "equal geometries with different energies",
    "leaks": "equal geometries in training and in validation or test",
}
