"""What a step costs: time, memory, multiply-adds, locking; schedules and the simulated timeline."""
