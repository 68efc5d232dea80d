"""What a run did, for the ggq.* keys of its file and for --report."""
