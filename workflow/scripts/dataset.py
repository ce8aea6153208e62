"""Verify, unpack and read an image data set: four .gz files to one netCDF file."""

from pathlib import Path

from _job import job

from diagfim import arrays, data

with job(snakemake) as this:
    settings = snakemake.params.dataset
    archives = [Path(archive) for archive in snakemake.input]
    halves = data.read_images(settings["kind"], archives, snakemake.params.sha256)
    arrays.write(
        snakemake.output[0], halves, f"{settings['kind']} images and labels", settings, this.about
    )
