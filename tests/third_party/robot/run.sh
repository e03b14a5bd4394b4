robot --report NONE --log NONE --output NONE orders.robot
