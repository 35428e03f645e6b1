"""The autoscaler: a pure planner of residents and memory modes. Its plan comes with a later release."""
