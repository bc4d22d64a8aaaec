// Package image runs the image of the Dockerfile in a real Docker Engine, in each way in which it is meant to be run.
package image
