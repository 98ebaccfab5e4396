"""How the built-in model and the experiments on the drawn world are made; not in the wheel."""
