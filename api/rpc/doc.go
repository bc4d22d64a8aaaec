// Package rpc serves the gRPC contract of proto/rollout/lb, by which programs register backends, beside gRPC's own health service and
// reflection.
//
//	call --> limits --> access --> read (contract to model) --> api.Pools --> status code
//
// What a call may do is decided before its message is read into anything of ours: who may is access's rule, the same as for HTTP. Every text
// in a call is parsed to a type or refused with InvalidArgument. Errors of Pools are model.Problem; its Kind becomes the code: Invalid
// InvalidArgument, Conflict AlreadyExists, NotFound NotFound, Refused FailedPrecondition, Unavailable Unavailable.
package rpc
