"""What people and programs ask the agent's span store by HTTP: Zipkin's query API, and pages."""
