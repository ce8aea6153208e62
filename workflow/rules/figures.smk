rule figures:
    input:
        f"{RESULTS}/summary.nc",
