// Package access decides who may use the management API, before any other code sees a request.
//
// The rules, in their order (design: Access; safety: who may do what, 1 and 2):
//  1. Liveness and readiness ask for nothing.
//  2. The peer must lie in an allowed range. Its address is that of the connection (or of the PROXY header that HAProxy
//     sends over its Unix socket), never that of a header.
//  3. On a traffic port a request that came through another proxy is refused, because its peer says nothing about who sent
//     it; unless somebody chose the ranges.
//  4. On a loopback address the Host must be an address or a listed name: a page of another site can make its own name point
//     to 127.0.0.1 (DNS rebinding), and a browser then takes us for that site.
//  5. Where a token is set, the request must bear it.
//  6. What writes must not come from a page of another site.
//
// The administration socket asks for none of it: its file rights are the guard.
package access
