"""Small things that everything uses: checks of arguments, threads, memory, files, HDF5, the environment, figures."""
