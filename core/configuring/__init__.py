"""From words to components: a flat config, the tables of what may be chosen, whether the parts fit."""
