"""Studies on a SLURM cluster, by submitit: an array of workers that requeue themselves."""
