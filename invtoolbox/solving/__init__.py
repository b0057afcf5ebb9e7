"""The steps of a call of `invtoolbox.solve`: its arguments, its choices, its run, its answer."""
