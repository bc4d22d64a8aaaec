// Package metrics shows Prometheus what the balancer does. It is a view on the Reporter's Status and Counters at the moment
// of a scrape: nobody else in the program knows of metrics, and nothing is counted here.
package metrics
