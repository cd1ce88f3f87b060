"""Many runs as one question: parameter sweeps and the study of prompts, seeds and baselines."""
