/* SPDX-License-Identifier: Apache-2.0 */
/* A stand-in for a few functions of Ascend's runtime (libascendcl.so, which no registry has), for tests. Never
 * installed. Declarations and numbers are those of CANN's documentation; what begins with ascend_stand_in is the
 * stand-in's own. */
#ifndef ASCEND_STAND_IN_ACL_H
#define ASCEND_STAND_IN_ACL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef int aclError;
typedef void *aclrtStream;
typedef void *aclrtContext;
typedef void (*aclrtCallback)(void *userData);
typedef void (*aclrtHostFunc)(void *args);

enum { ACL_SUCCESS = 0 };
typedef enum { ACL_CALLBACK_NO_BLOCK, ACL_CALLBACK_BLOCK } aclrtCallbackBlockType;

#define ACL_ERROR_INVALID_PARAM 100000
#define ACL_ERROR_RT_PARAM_INVALID 107000
#define ACL_ERROR_RT_CONTEXT_NULL 107002
#define ACL_ERROR_RT_STREAM_CONTEXT 107003
#define ACL_ERROR_RT_STREAM_SUBSCRIBE 107011
#define ACL_ERROR_RT_THREAD_SUBSCRIBE 107012
#define ACL_ERROR_RT_STREAM_NO_CB_REG 107015
#define ACL_ERROR_RT_FEATURE_NOT_SUPPORT 207000
#define ACL_ERROR_RT_INTERNAL_ERROR 507000
#define ACL_ERROR_RT_REPORT_TIMEOUT 507012

/* The calling thread gets the device's own context. There are two devices, 0 and 1. */
aclError aclrtSetDevice(int32_t deviceId);
aclError aclrtGetDevice(int32_t *deviceId);
aclError aclrtGetCurrentContext(aclrtContext *context);
aclError aclrtSetCurrentContext(aclrtContext context);

aclError aclrtCreateStream(aclrtStream *stream);
/* Waits for its work. */
aclError aclrtDestroyStream(aclrtStream stream);
aclError aclrtSynchronizeStream(aclrtStream stream);

aclError aclrtLaunchHostFunc(aclrtStream stream, aclrtHostFunc fn, void *args);
aclError aclrtLaunchCallback(aclrtCallback fn, void *userData, aclrtCallbackBlockType blockType, aclrtStream stream);
aclError aclrtSubscribeReport(uint64_t threadId, aclrtStream stream);
aclError aclrtUnSubscribeReport(uint64_t threadId, aclrtStream stream);
aclError aclrtProcessReport(int32_t timeout);

/* Work of the accelerator's own, such as a kernel. */
aclError ascend_stand_in_run(aclrtStream stream, void (*kernel)(void *), void *args);
/* The next `count` launches fail with `code`. */
void ascend_stand_in_fail(aclError code, int count);
/* Calls again what was launched last, behind all that the stream has: what a runtime must not do. */
aclError ascend_stand_in_repeat(aclrtStream stream);
/* Calls of the runtime from within a launched function, which it forbids, and in a forked child. */
int ascend_stand_in_violations(void);
/* Streams that a thread is subscribed to. */
int ascend_stand_in_subscriptions(void);
/* Functions launched so far, by either call. */
long ascend_stand_in_launches(void);

#ifdef __cplusplus
}
#endif

#endif
