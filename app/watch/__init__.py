"""What a process of ours measures, what is promised, and the rules that say when somebody has to look."""
