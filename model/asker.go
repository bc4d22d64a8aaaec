package model

import "context"

type askerKey struct{}

// WithAsker notes in a call's context who makes the call, in the words that people read: "API from 10.0.0.1".
func WithAsker(ctx context.Context, who string) context.Context {
	return context.WithValue(ctx, askerKey{}, who)
}

// Asker is who makes the call, "" when nobody noted it.
func Asker(ctx context.Context) string {
	who, _ := ctx.Value(askerKey{}).(string)
	return who
}
