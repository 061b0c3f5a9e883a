"""Online learners that read every block beside a training, and their regret."""
