"""Experiments beside the networks of the paper, each a module; a job runs one replicate of one."""
