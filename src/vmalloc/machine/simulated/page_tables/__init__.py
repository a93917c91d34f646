"""Page tables of a simulated machine: real tables in page frames, and what keeps copies of them current."""
