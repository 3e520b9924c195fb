"""Many configurations: spaces, studies, trials, what they come to.  The only room with optuna."""
