"""Release pairs trained from scratch: domains, models, training, export and scoring."""
