"""How far it is: what is done, what is left and to come, and what that will cost."""
