"""Public sets of pictures as they lie on a disk once their archives are unpacked."""
