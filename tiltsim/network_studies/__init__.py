"""The studies of Nelson et al. (npj Comput. Mater. 7, 149, 2021) with known truth: each one function and one figure."""
