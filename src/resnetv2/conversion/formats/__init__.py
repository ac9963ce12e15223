"""Files that hold named arrays, read with suspicion: nothing is run, and nothing is allocated before it is checked."""
