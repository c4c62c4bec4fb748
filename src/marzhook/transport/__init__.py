"""How requests leave the house."""
