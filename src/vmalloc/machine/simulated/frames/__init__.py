"""The page frames of a simulated machine: who has which, and what is in them."""
