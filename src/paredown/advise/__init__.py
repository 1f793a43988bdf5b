"""The language model that may advise the search: client, prompts, guard, and its policy."""
