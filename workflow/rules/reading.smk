# The files of the configuration, before Snakemake makes one dictionary of them.

sys.path.insert(0, str(Path(workflow.basedir) / "workflow" / "lib"))

from misreadings import misreadings

# Those of the command line Snakemake has read by now; jobs get what this process has checked.
if workflow.is_main_process:
    files = [*filter(os.path.exists, [MAIN_CONFIG]), *workflow.configfiles]
    if mistakes := misreadings(files):
        sys.exit("\n".join(mistakes))
