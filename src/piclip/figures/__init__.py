"""Pictures of what was found and how, for people and papers."""
