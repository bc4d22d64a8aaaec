// Package docker is the source of containers: labels say which port of the balancer leads to which container, and the engine's events say
// when. It asks the engine only to list and inspect, so that a filtering proxy in front of the socket can refuse everything else.
package docker
