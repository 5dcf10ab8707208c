"""What a model may be asked: one folder a task, with its definition and its prompts as versioned files.

Pure: a task knows contracts and policy, and neither provider nor database. See docs/how-to/add-a-task.md for a new one.
"""
