# The files of the configuration, before Snakemake makes one dictionary of them.

WORKFLOW = Path(workflow.current_basedir).parent
sys.path.insert(0, str(WORKFLOW / "lib"))

from misreadings import misreadings

# Those of the command line, which Snakemake has read by now.
CONFIGFILES = [os.path.relpath(path) for path in workflow.configfiles]

# Jobs get what this process has checked.
if workflow.is_main_process:
    files = [*filter(os.path.exists, [MAIN_CONFIG]), *workflow.configfiles]
    if mistakes := misreadings(files):
        sys.exit("\n".join(mistakes))
